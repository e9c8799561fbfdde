"""The background tasks of an object end with it, and none of their errors is lost."""

from __future__ import annotations

import asyncio

import pytest

from timbr_wamp.client.tasks import Tasks
from timbr_wamp.errors import TooManyTasks


async def fail(error: Exception) -> None:
    raise error


async def sleep_for_ever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


def test_each_error_reaches_the_owner_once():
    async def work() -> None:
        errors: list[Exception] = []
        tasks = Tasks(errors.append)
        first, second = RuntimeError("first"), ValueError("second")
        for error in (first, second):
            await asyncio.wait([tasks.start(fail(error))])
        await tasks.close()
        assert errors == [first, second]
        assert len(tasks) == 0

    asyncio.run(work())


def test_closing_ends_what_runs_and_reports_nothing():
    async def work() -> None:
        errors: list[Exception] = []
        ended: list[str] = []
        tasks = Tasks(errors.append)
        tasks.start(sleep_for_ever(ended))
        tasks.start(sleep_for_ever(ended))
        await asyncio.sleep(0)
        await tasks.close()
        await tasks.close()
        assert (ended, errors, len(tasks)) == (["ended", "ended"], [], 0)

    asyncio.run(work())


def test_nothing_is_started_after_closing():
    async def work() -> None:
        ran: list[str] = []

        async def note() -> None:
            ran.append("ran")

        tasks = Tasks(lambda error: None)
        await tasks.close()
        await asyncio.wait([tasks.start(note())])
        assert ran == []

    asyncio.run(work())


def test_an_error_while_ending_is_seen_as_well():
    async def work() -> None:
        errors: list[Exception] = []

        async def fails_at_its_end() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise RuntimeError("at its end")

        tasks = Tasks(errors.append)
        tasks.start(fails_at_its_end())
        await asyncio.sleep(0)
        await tasks.close()
        assert [str(error) for error in errors] == ["at its end"]

    asyncio.run(work())


def test_a_task_may_close_the_set_that_it_belongs_to():
    async def work() -> None:
        tasks = Tasks(lambda error: None)
        ended: list[str] = []
        tasks.start(sleep_for_ever(ended))
        await asyncio.sleep(0)

        async def close() -> None:
            await tasks.close()

        closer = tasks.start(close())
        await asyncio.wait([closer])
        assert ended == ["ended"]

    asyncio.run(asyncio.wait_for(work(), 5))


def test_the_number_of_tasks_has_a_limit():
    async def main() -> None:
        tasks = Tasks(lambda error: None, limit=2)
        waits = [tasks.start(asyncio.Event().wait()) for _ in range(2)]
        with pytest.raises(TooManyTasks):
            tasks.start(asyncio.Event().wait())
        await tasks.close()
        assert all(task.cancelled() for task in waits)

    asyncio.run(main())
