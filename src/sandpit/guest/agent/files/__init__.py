"""Files and directories: up- and downloads, the file system service, watchers."""
