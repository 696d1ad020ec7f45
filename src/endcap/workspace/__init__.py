"""Where things live: the folder layout, atomic writes, table versions, run manifests and the ledger."""
