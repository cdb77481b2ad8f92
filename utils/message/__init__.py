"""What crosses the link: the update message. Needs numpy and constriction, no torch."""

from utils.message.base import Base, Shared
from utils.message.body import Coding, Draft, draft_update
from utils.message.container import unpack_message
from utils.message.streams import UpdateFormatError
from utils.message.update import Update, decode_update, encode_update

__all__ = [
    "Base", "Coding", "Draft", "Shared", "Update", "UpdateFormatError",
    "decode_update", "draft_update", "encode_update", "unpack_message",
]  # fmt: skip
