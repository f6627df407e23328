"""Kernels: environments that run code apart from each other."""

from sandpit import CodeInterpreter

with CodeInterpreter() as sandbox:
    # Creating a new kernel
    kernel_id = sandbox.notebook.create_kernel(cwd="/home/user", kernel_name="python3")
    sandbox.notebook.exec_cell("x = 1", kernel_id=kernel_id)

    # Listing kernels
    print(kernel_id in sandbox.notebook.list_kernels())
    # output: True

    # The default kernel knows nothing of x
    print(sandbox.notebook.exec_cell("x").error)
    # output: NameError: name 'x' is not defined

    # Restarting a kernel
    sandbox.notebook.restart_kernel(kernel_id)
    print(sandbox.notebook.exec_cell("x", kernel_id=kernel_id).error)
    # output: NameError: name 'x' is not defined

    # Shutting down a kernel
    sandbox.notebook.shutdown_kernel(kernel_id)
    print(kernel_id in sandbox.notebook.list_kernels())
    # output: False
