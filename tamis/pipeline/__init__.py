"""The engine: specification, plan, passes, ledger, workers, export."""
