"""What is asked for every request, and for every session that opens or comes back."""

from __future__ import annotations

from storage import rooms, sign_ins
from storage.database import Database
from storage.together import Together


class Lookups:
    """Each of these is one query for all who ask at the same time: the sign-in and the chatrooms of a user."""

    def __init__(self, database: Database) -> None:
        self.sign_ins = Together(database, sign_ins.find)
        self.chatroom_ids = Together(database, rooms.chatroom_ids_of)
        self.states = Together(database, rooms.states_of)
