"""Who has an account, and what a wrong password comes to."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import InvalidMessage, Settings
from modules.accounts.contract import (
    ChangePassword,
    NameTaken,
    RefreshSession,
    SessionEnded,
    SignIn,
    SignInFailed,
    SignUp,
    TooManyAttempts,
    WeakPassword,
)
from tests.modules.accounts.accounts import BETTER, CHEAP, GOOD, Running, running


@pytest.mark.split
async def test_who_has_signed_up_can_sign_in_and_nobody_else_can_take_the_name(here: Running) -> None:
    await here.sign_up()
    with pytest.raises(NameTaken):
        await here.sign_up(password=BETTER)
    with pytest.raises(NameTaken):
        await here.sign_up()
    session = await here.sign_in()
    assert (session.name, session.roles, session.expires_in_s) == ("ada", (), 600.0)


async def test_a_sign_up_that_is_repeated_makes_one_account_and_no_error(here: Running) -> None:
    await here.bus.execute(SignUp("ada", GOOD), id="first")
    await here.bus.execute(SignUp("ada", GOOD), id="first")
    with pytest.raises(NameTaken):
        await here.bus.execute(SignUp("ada", BETTER), id="first")
    await here.sign_in()


async def test_a_name_has_small_letters_digits_and_hyphens(here: Running) -> None:
    for name in ("", "Ada", "a_b", "-ada", "ada-", "ad a", "a" * 31, "äda", "ada\n"):
        with pytest.raises(InvalidMessage):
            await here.sign_up(name)
    for name in ("a", "3", "a-1", "a" * 30):
        await here.sign_up(name)


WEAK = [
    ("abc1234", "fewer than 8"),
    ("12345678", "repeats itself"),
    ("abababab", "repeats itself"),
    ("zyxwvuts", "repeats itself"),
    ("Password123", "tried first"),
    ("QWERTYUIOP", "tried first"),
    ("\uff50assword1", "tried first"),  # a wide p is the same letter
    ("ada-lovelace", "the name"),
    ("Ada-Lovelace1815!", "the name"),
    ("ecalevol-ada", "the name"),
]


async def test_a_password_that_is_easy_to_guess_is_refused_with_the_reason(here: Running) -> None:
    for password, reason in WEAK:
        with pytest.raises(WeakPassword, match=reason):
            await here.sign_up("ada-lovelace", password)
    with pytest.raises(SignInFailed):
        await here.sign_in("ada-lovelace", WEAK[-1][0])


async def test_any_character_may_stand_in_a_password(here: Running) -> None:
    for number, password in enumerate(
        ("kR7!pq2z", "eine Katze über 3 Dächern", "密码很长而且没有人猜得到", "  x8Qz  ")
    ):
        await here.sign_up(f"user-{number}", password)
        assert (await here.sign_in(f"user-{number}", password)).name == f"user-{number}"
        with pytest.raises(SignInFailed):
            await here.sign_in(f"user-{number}", password + " ")


async def test_a_wrong_password_and_a_name_that_nobody_has_are_told_alike(here: Running) -> None:
    await here.sign_up()
    with pytest.raises(SignInFailed) as wrong:
        await here.sign_in(password=BETTER)
    with pytest.raises(SignInFailed) as nobody:
        await here.sign_in("nobody")
    assert wrong.value == nobody.value


async def test_after_too_many_wrong_ones_nobody_gets_in_until_the_window_has_passed(here: Running) -> None:
    await here.sign_up()
    for name in ("ada", "nobody"):
        for _ in range(CHEAP.attempts):
            with pytest.raises(SignInFailed):
                await here.sign_in(name, BETTER)
        with pytest.raises(TooManyAttempts) as refused:
            await here.sign_in(name, BETTER)
        assert refused.value.retry_after_s == CHEAP.attempts_window_s
    with pytest.raises(TooManyAttempts):
        await here.sign_in()  # the right one is not looked at either: it would tell that it is
    await here.sign_up("bob")
    await here.sign_in("bob")
    here.clock.advance(CHEAP.attempts_window_s + 1)
    await here.sign_in()


async def test_attempts_at_the_same_moment_are_counted_too(here: Running) -> None:
    await here.sign_up()
    outcomes: list[str] = []

    async def guess() -> None:
        try:
            await here.sign_in(password=BETTER)
        except (SignInFailed, TooManyAttempts) as error:
            outcomes.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        for _ in range(3 * CHEAP.attempts):
            tasks.start_soon(guess)
    assert outcomes.count("SignInFailed") == CHEAP.attempts
    assert outcomes.count("TooManyAttempts") == 2 * CHEAP.attempts


async def test_a_right_password_lets_the_wrong_ones_be_forgotten(here: Running) -> None:
    await here.sign_up()
    for _ in range(3):
        for _ in range(CHEAP.attempts - 1):
            with pytest.raises(SignInFailed):
                await here.sign_in(password=BETTER)
        await here.sign_in()


async def test_a_changed_password_ends_all_sessions(here: Running) -> None:
    await here.sign_up()
    first, second = await here.sign_in(), await here.sign_in()
    ada = here.of("ada")
    with pytest.raises(SignInFailed):
        await ada.execute(ChangePassword(BETTER, GOOD))
    with pytest.raises(WeakPassword):
        await ada.execute(ChangePassword(GOOD, "ada12345"))
    await here.bus.execute(RefreshSession(second.refresh_token))
    await ada.execute(ChangePassword(GOOD, BETTER))
    for session in (first, second):
        with pytest.raises(SessionEnded):
            await here.bus.execute(RefreshSession(session.refresh_token))
    with pytest.raises(SignInFailed):
        await here.sign_in()
    await here.sign_in(password=BETTER)


async def test_who_has_a_session_can_guess_the_password_no_faster(here: Running) -> None:
    await here.sign_up()
    for _ in range(CHEAP.attempts):
        with pytest.raises(SignInFailed):
            await here.of("ada").execute(ChangePassword(BETTER, "another walk by the river"))
    with pytest.raises(TooManyAttempts):
        await here.of("ada").execute(ChangePassword(GOOD, BETTER))
    await here.sign_in()  # which holds up nobody who signs in


async def guess(here: Running, times: int = CHEAP.attempts, **given: Any) -> None:
    """Try wrong passwords for ada, each of which is looked at."""
    for _ in range(times):
        with pytest.raises(SignInFailed):
            await here.bus.execute(SignIn("ada", BETTER, **given))


async def test_a_device_that_has_signed_in_before_has_a_count_of_its_own(here: Running) -> None:
    await here.sign_up()
    first, second = (await here.sign_in()).device_token, (await here.sign_in()).device_token
    assert first is not None
    assert first != second
    await guess(here)
    with pytest.raises(TooManyAttempts):
        await here.sign_in()
    again = await here.bus.execute(SignIn("ada", GOOD, first))
    assert again.device_token == first  # a sign-in does not multiply what may be guessed
    with pytest.raises(TooManyAttempts):
        await here.sign_in()  # and others have guessed as much as before
    # Who has taken one may guess as often as anybody.
    await guess(here, device_token=first)
    with pytest.raises(TooManyAttempts):
        await here.bus.execute(SignIn("ada", GOOD, first))
    await here.bus.execute(SignIn("ada", GOOD, second))


async def test_a_device_token_that_is_another_accounts_or_made_up_is_worth_nothing(here: Running) -> None:
    await here.sign_up()
    await here.sign_up("bob")
    token, bobs = (await here.sign_in()).device_token, (await here.sign_in("bob")).device_token
    assert token is not None
    number, _, mac = token.partition(".")
    worthless = [bobs, f"{number}x.{mac}", f"{number}.{mac[:-1]}", number, ".", "\ud7ff.é", "x" * 128]
    await guess(here)
    for each in worthless:
        with pytest.raises(TooManyAttempts):
            await here.bus.execute(SignIn("ada", GOOD, each))
    await here.bus.execute(SignIn("ada", GOOD, token))


async def test_a_password_can_be_changed_whatever_strangers_guess_and_old_device_tokens_end_with_it(
    here: Running,
) -> None:
    await here.sign_up()
    old = (await here.sign_in()).device_token
    await guess(here)
    changed = await here.of("ada").execute(ChangePassword(GOOD, BETTER))
    for _ in range(CHEAP.attempts):
        with pytest.raises(SignInFailed):
            await here.bus.execute(SignIn("ada", GOOD, old))  # counted as a stranger's
    with pytest.raises(TooManyAttempts):
        await here.bus.execute(SignIn("ada", BETTER, old))
    await here.bus.execute(SignIn("ada", BETTER, changed.device_token))


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("accounts*"))


def stored_password(folder: Path) -> str:
    with sqlite3.connect(next(folder.glob("accounts*"))) as connection:
        (password,) = connection.execute("SELECT password FROM accounts").fetchone()
    connection.close()
    return str(password)


async def test_a_password_is_hashed_anew_when_hashing_has_become_dearer(tmp_path: Path) -> None:
    settings = Settings(database=f"sqlite:///{tmp_path}")
    async with running(settings) as here:
        await here.sign_up()
    before = stored_password(tmp_path)
    assert before.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    async with running(settings, argon2_memory_kib=128, argon2_passes=2) as here:
        with pytest.raises(SignInFailed):
            await here.sign_in(password=BETTER)
        assert stored_password(tmp_path) == before
        await here.sign_in()
        renewed = stored_password(tmp_path)
        assert renewed.startswith("$argon2id$v=19$m=128,t=2,p=1$")
        await here.sign_in()
        assert stored_password(tmp_path) == renewed


async def test_a_name_that_nobody_has_costs_a_whole_hash(tmp_path: Path) -> None:
    """Measured in work and not in time: the verifier is asked with the same costs."""
    import argon2

    asked: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counting(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        asked.append(stored.rpartition("$")[0].rpartition("$")[0])
        return bool(verify(self, stored, password))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argon2.PasswordHasher, "verify", counting)
        async with running(Settings(database=f"sqlite:///{tmp_path}")) as here:
            await here.sign_up()
            for name in ("ada", "nobody"):
                with pytest.raises(SignInFailed):
                    await here.sign_in(name, BETTER)
    assert asked == ["$argon2id$v=19$m=64,t=1,p=1"] * 2


async def test_no_secret_stands_in_the_database_or_its_inbox(tmp_path: Path) -> None:
    async with running(Settings(database=f"sqlite:///{tmp_path}")) as here:
        await here.bus.execute(SignUp("ada", GOOD), id="a-command")
        session = await here.bus.execute(SignIn("ada", GOOD), id="another")
        again = await here.bus.execute(RefreshSession(session.refresh_token), id="a-third")
    kept = everything_in(tmp_path)
    assert b"ada" in kept
    for secret in (
        *(GOOD, session.refresh_token, session.access_token, again.refresh_token),
        str(session.device_token),
    ):
        assert secret.encode() not in kept


def test_a_secret_is_not_shown_where_a_message_is() -> None:
    assert GOOD not in repr(
        (SignUp("ada", GOOD), SignIn("ada", GOOD), ChangePassword(GOOD, GOOD), RefreshSession(GOOD))
    )
