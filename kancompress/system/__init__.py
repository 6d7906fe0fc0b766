"""The machine: files, locks, processes, devices and threads. It knows no network."""
