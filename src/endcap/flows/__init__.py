"""Stages composed into whole jobs on the ledger."""
