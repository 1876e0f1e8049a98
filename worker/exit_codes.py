"""The exit codes of a worker, for the program that supervises it."""

EXIT_DRAINED, EXIT_FAILED, EXIT_SETTINGS, EXIT_ENGINE_DIED = 0, 1, 2, 3

MEANINGS = {
    str(EXIT_DRAINED): "drained: what it took was answered or given back",
    str(EXIT_FAILED): "failed, by a defect: the log ends with its traceback",
    str(EXIT_SETTINGS): "a setting, Redis, a folder or the model cannot work, as stderr says: mend that first",
    str(EXIT_ENGINE_DIED): "the engine died or hung, its jobs were given back: start it again",
    "128 + N": "ended by signal N (143: SIGTERM), a second one or one before it served",
}
