"""Jobs beside the loop's callbacks."""

from __future__ import annotations

import asyncio

from ginnel.net.jobs import Jobs
from support.eventually import until


def test_jobs_are_bounded_and_end_with_their_owner() -> None:
    done: list[str] = []

    async def work(name: str, go_on: asyncio.Event) -> None:
        try:
            await go_on.wait()
            done.append(name)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            done.append(f"{name} cancelled")
            raise

    async def main() -> None:
        jobs, first, never = Jobs(2), asyncio.Event(), asyncio.Event()
        await jobs.join()
        assert jobs.start(work("one", first))
        assert jobs.start(work("two", never))
        assert jobs.is_full
        assert not jobs.start(work("three", first))
        first.set()
        await until(lambda: len(jobs) == 1)
        assert jobs.start(work("four", never))
        await asyncio.sleep(0)
        jobs.cancel()
        await jobs.join()
        assert sorted(done) == ["four cancelled", "one", "two cancelled"]
        assert len(jobs) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
