"""The only importer of vLLM in our process: an `AsyncLLM` that cannot hang a caller, and whose errors are ours.

vLLM reads its environment while it is imported, hence the order of the first lines.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Coroutine
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, TypeVar

import structlog

from worker import vllm_setup
from worker.config import WorkerSettings
from worker.engine import Adapter, Completion, EngineInfo, GenerateRequest
from worker.errors import DataError, EngineDiedError, SettingsError
from worker.vllm_plugin import WORKER_PID

vllm_setup.prepare_environment(os.environ)
