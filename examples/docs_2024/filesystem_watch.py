"""Watch directory for changes."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# Start filesystem watcher for the /home directory
watcher = sandbox.filesystem.watch_dir("/home")
watcher.add_event_listener(lambda event: print("Filesystem event", event.operation, event.path))
watcher.start()

# Create files in the /home directory inside the sandbox
# We'll receive notifications for these events through the watcher we created above.
for i in range(10):
    # `filesystem.write()` will trigger two events:
    # 1. 'Create' when the file is created
    # 2. 'Write' when the file is written to
    sandbox.filesystem.write(f"/home/{i}.txt", f"Hello World {i}!")

sandbox.close()
# output: Filesystem event Create /home/0.txt
# output: Filesystem event Write /home/0.txt
