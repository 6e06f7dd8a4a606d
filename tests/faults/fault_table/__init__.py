"""The runner of the fault table: reads faults.yaml, breaks a remote as it says, compares."""
