"""Who is at the terminal: a token or a password from the environment, or questions. Secrets are never arguments."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from gateway.terminal.account import Account, Rest
from protocol.errors import ChatError


def sign_in(rest: Rest | None, user: str | None, environment: Mapping[str, str]) -> Account:
    """Someone who may talk. Raises ChatError if the server does not know them, click.UsageError if who is missing."""
    if token := environment.get("PARLEY_TOKEN"):
        return Account.with_token(rest, token)
    if rest is None:
        raise click.UsageError(
            "A password needs ws:// or wss:// without a key; otherwise give a token in PARLEY_TOKEN."
        )
    asking = sys.stdin.isatty()
    name = user or _answer(asking, "User name", "give one with --user, or a token in PARLEY_TOKEN")
    password = environment.get("PARLEY_PASSWORD") or _answer(
        asking, "Password", "give one in PARLEY_PASSWORD, or a token in PARLEY_TOKEN", hide=True
    )
    try:
        return Account.log_in(rest, name, password)
    except ChatError as error:
        if error.code != "AUTH_INVALID_CREDENTIALS" or not asking:
            raise
    return _register(rest, name, password)


def _register(rest: Rest, name: str, password: str) -> Account:
    """Parley does not tell whether the name or the password is wrong, so this may be someone new."""
    click.echo("There is no such user with this password.")
    click.confirm(f"Make a new account called {name}?", abort=True)
    email = click.prompt("E-mail address")
    if click.prompt("The password again", hide_input=True) != password:
        raise click.UsageError("The passwords differ; nothing was made.")
    return Account.register(rest, name, email, password)


def _answer(asking: bool, question: str, otherwise: str, *, hide: bool = False) -> str:
    if not asking:
        raise click.UsageError(f"{question} is missing: {otherwise}.")
    answer: str = click.prompt(question, hide_input=hide)
    return answer
