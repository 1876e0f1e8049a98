"""What trainers and operators use: clients, batches, versions, the command line. Never imports the worker."""

if __name__ == "producer":
    raise ImportError("producer is a part of rollstream: from rollstream import AsyncClient, Client, ...")
