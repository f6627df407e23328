"""smolagents: an agent's code runs in the sandbox; the model is a script."""

from smolagents import CodeAgent
from smolagents.models import ChatMessage, MessageRole, Model


class Script(Model):
    """A model that answers with the same code each time."""

    def generate(self, messages, **options):
        code = "import os\nprint('in', os.uname().sysname)\nfinal_answer(sum(range(10)))"
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: add.\n<code>\n{code}\n</code>")


with CodeAgent(tools=[], model=Script(model_id="script"), executor_type="e2b", verbosity_level=0, max_steps=2) as agent:
    assert agent.run("What is the sum of 0 to 9?") == 45
