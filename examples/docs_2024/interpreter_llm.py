"""How to interpret the results to an LLM. `execution.to_llm()` does the same."""

from sandpit import CodeInterpreter, Execution


def to_llm(execution: Execution) -> str:
    # There was an error during execution, return the error and its traceback
    if execution.error:
        return (
            f"There was an error during execution: {execution.error.name}: {execution.error.value}.\n"
            f"{execution.error.traceback}"
        )

    # The execution has some result, summarize to LLM, what are the results
    if execution.results:
        message = "These are results of the execution:\n"
        for i, result in enumerate(execution.results):
            message += f"Result {i + 1}:\n"
            if result.is_main_result:
                message += f"[Main result]: {result.text}\n"
            else:
                message += f"[Display data]: {result.text}\n"
            if result.formats():
                message += f"It has also following formats: {result.formats()}\n"
        return message

    # There were no results, check if there was something is stdout/err
    if execution.logs.stdout or execution.logs.stderr:
        message = "There was no result of the execution, but here are the logs:\n"
        if execution.logs.stdout:
            message += f"Stdout: {''.join(execution.logs.stdout)}\n"
        if execution.logs.stderr:
            message += f"Stderr: {''.join(execution.logs.stderr)}\n"
        return message

    return "There was no output of the execution."


with CodeInterpreter() as sandbox:
    for code in ("[1, 2]", "print('hello')", "1 / 0", "None"):
        execution = sandbox.notebook.exec_cell(code)
        print(to_llm(execution), execution.to_llm(), sep="\n")
    # output: [Main result]: [1, 2]
    # output: It has also following formats: ['json']
    # output: It has the following formats: json
    # output: Stdout: hello
    # output: Stdout: hello
    # output: There was an error during execution: ZeroDivisionError: division by zero.
    # output: There was an error during execution: ZeroDivisionError: division by zero.
    # output: There was no output of the execution.
    # output: There was no output of the execution.
