"""What goes wrong between messages and token ids."""

from __future__ import annotations

from ...errors import ProducerError


class ChatTemplateError(ProducerError):
    """Raised when the tokenizer of a folder cannot be loaded, or its chat template cannot serve conversations."""

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f"{folder}: {problem}")
        self.folder = folder
        self.problem = problem


class ChatRequestError(ProducerError):
    """Raised when messages or tools cannot be used; nothing was queued.

    `param` is the place in the request, such as `messages[2].role`, `code` a word for programs.
    """

    def __init__(self, param: str, code: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param
        self.code = code
        self.problem = problem


class ReplyChangedError(ProducerError):
    """Raised when a whole reply does not begin with what was already sent of it; the stream must end with an error."""


class NotContinuedError(ProducerError):
    """Raised when a chat template leaves no way to go on after ids that stay as they were sampled.

    Nothing was queued. The conversation can be sent as a new one, whose ids are all made from its messages.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"the conversation cannot go on from the sampled tokens: {problem}")
        self.problem = problem
