"""A zoo of teachers, clean and backdoored, on which protection, detection and run-time filters are measured."""
