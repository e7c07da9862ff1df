"""One Prefect flow a file: read files, call tasks, record, write files."""
