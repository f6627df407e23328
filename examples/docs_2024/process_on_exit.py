"""On process exit."""

from sandpit import Sandbox

sandbox = Sandbox(template="base", on_exit=lambda: print("[sandbox]", "process ended"))

proc = sandbox.process.start('echo "Hello World!"')
proc.wait()
# output: [sandbox] process ended

proc_with_custom_handler = sandbox.process.start(
    'echo "Hello World!"',
    on_exit=lambda exit_code: print("[process]", "process ended with", exit_code),
)
proc_with_custom_handler.wait()
# output: [process] process ended with 0

sandbox.close()
