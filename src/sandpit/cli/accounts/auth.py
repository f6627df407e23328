"""`sandpit auth`: which server, and with which key. No account anywhere is needed: the key is the server's own."""

from __future__ import annotations

import typer

from sandpit.cli.accounts import account as accounts
from sandpit.cli.accounts.account import Account, beside, config_file, read_config, write_config
from sandpit.cli.errors import CliError
from sandpit.cli.output import plain, print_json
from sandpit.cli.sandboxes.choose import MISUSE, has_terminal


def login(api_url: str | None, api_key: str | None, sandbox_url: str | None, *, as_json: bool) -> None:
    """Check a server and a key, and store them. Raises: CliError."""
    api_url = _address(api_url or _ask("The server's address", "--api-url", default=accounts.DEFAULT_API_URL))
    key = (api_key or _ask("API key (see `sandpit env` there)", "--api-key", hidden=True)).strip()
    given = _address(sandbox_url) if sandbox_url else beside(api_url)
    account = Account(api_url, given, key, "what was given")
    team = _check(account)
    write_config(account)
    if as_json:
        print_json({"apiUrl": api_url, "sandboxUrl": given, "team": team, "file": str(config_file())})
        return
    typer.echo(f"Logged in to {api_url} (team {plain(team)}); stored in {config_file()}")


def logout(*, as_json: bool) -> None:
    """Forget what login stored. Nothing to forget is no error."""
    there = config_file().exists()
    config_file().unlink(missing_ok=True)
    if as_json:
        print_json({"loggedOut": there})
    else:
        typer.echo("Logged out." if there else "Not logged in, nothing to do.")


def info(*, as_json: bool) -> None:
    """Say which server and key commands use, and whether they work. Raises: CliError."""
    account = accounts.find()
    team = _check(account)
    about = {
        "apiUrl": account.api_url,
        "sandboxUrl": account.sandbox_url,
        "key": mask(account.api_key),
        "source": account.source,
        "team": team,
        "loggedIn": read_config() is not None,
    }
    if as_json:
        print_json(about)
        return
    for label, value in (
        ("Server", account.api_url), ("Sandboxes", account.sandbox_url or "below the server's domain"),
        ("Team", plain(team)), ("Key", about["key"]), ("From", account.source),
    ):  # fmt: skip
        typer.echo(f"{label:10} {value}")


def mask(key: str) -> str:
    """Enough of a key to know it again."""
    return f"{key[:8]}...{key[-4:]}" if len(key) > 16 else "..."


def _check(account: Account) -> str:
    """The team that the key is for. Raises: CliError."""
    from sandpit.cli.client import Api

    with Api(account) as api:
        teams = api.call("GET", "/teams")
    try:
        return str(teams[0]["name"])
    except (KeyError, IndexError, TypeError):
        raise CliError(f"{account.api_url} answers, but not as Sandpit does", "check the address") from None


def _address(text: str) -> str:
    text = text.strip().rstrip("/")
    return text if "://" in text else f"http://{text}"


def _ask(what: str, option: str, *, default: str | None = None, hidden: bool = False) -> str:
    if not has_terminal():
        raise CliError(
            f"{what.split(' (')[0]} is missing, and there is no terminal to ask in", f"give {option}", status=MISUSE
        )
    answer: str = typer.prompt(what, default=default, hide_input=hidden, err=True)
    return answer
