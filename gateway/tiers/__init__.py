"""What the hosts hold on disk and in RAM, and the room there: looked at, told to the ledger, made."""
