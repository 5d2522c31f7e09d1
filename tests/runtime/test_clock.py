from __future__ import annotations

import asyncio
import time

from ipsecd.runtime import clock


def run(body) -> None:
    async def limited() -> None:
        async with asyncio.timeout(5):
            await body()
    asyncio.run(limited())


def test_now_is_seconds_since_boot_with_sleep() -> None:
    assert abs(clock.now() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1


def test_timer_fires_once_and_not_before_its_time() -> None:
    async def body() -> None:
        fired: list[float] = []
        first = asyncio.Event()
        timer = clock.Timer(asyncio.get_running_loop(), lambda: (fired.append(clock.now()), first.set()))
        at = clock.now() + 0.03
        timer.arm(at)
        await first.wait()
        await at_time(clock.now() + 0.05)
        assert len(fired) == 1 and at - 1e-6 <= fired[0]
        timer.close()
    run(body)


def test_timer_armed_in_the_past_fires_at_once() -> None:
    async def body() -> None:
        for at in (0.0, -1.0, clock.now() - 10):
            await at_time(at)
    run(body)


def test_timer_rearmed_earlier_and_later_keeps_the_last_time() -> None:
    async def body() -> None:
        fired = asyncio.Event()
        timer = clock.Timer(asyncio.get_running_loop(), fired.set)
        timer.arm(clock.now() + 3600)
        timer.arm(clock.now() + 0.01)
        await fired.wait()
        fired.clear()
        timer.arm(clock.now() + 0.01)
        timer.arm(clock.now() + 3600)
        await at_time(clock.now() + 0.05)
        assert not fired.is_set()
        timer.close()
    run(body)


def test_timer_disarmed_does_not_fire_and_can_be_armed_again() -> None:
    async def body() -> None:
        fired = asyncio.Event()
        timer = clock.Timer(asyncio.get_running_loop(), fired.set)
        at = clock.now() + 0.01
        timer.arm(at)
        timer.arm(None)
        await at_time(at + 0.02)
        assert not fired.is_set()
        timer.arm(at)                        # the same time again, after it was disarmed
        await fired.wait()
        timer.close()
    run(body)


def test_timer_may_be_armed_for_the_same_time_from_its_own_call() -> None:
    async def body() -> None:
        done, count, at = asyncio.Event(), 0, clock.now() + 0.01

        def fire() -> None:
            nonlocal count
            count += 1
            if count < 3:
                timer.arm(at)
            else:
                done.set()
        timer = clock.Timer(asyncio.get_running_loop(), fire)
        timer.arm(at)
        await done.wait()
        timer.close()
    run(body)


def test_timer_lets_no_error_of_its_call_pass_unseen() -> None:
    async def body() -> None:
        seen = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.set() if isinstance(
            context["exception"], BlockingIOError) else None)

        def fire() -> None:
            raise BlockingIOError
        timer = clock.Timer(loop, fire)
        timer.arm(clock.now())
        await seen.wait()
        timer.close()
    run(body)


async def at_time(at: float) -> None:
    """Wait with a second timer: the kernel orders both."""
    fired = asyncio.Event()
    timer = clock.Timer(asyncio.get_running_loop(), fired.set)
    timer.arm(at)
    await fired.wait()
    timer.close()


