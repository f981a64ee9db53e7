"""Takes the pictures of himar-serve's page in docs/page.md: on a desk in light colours, on a phone in dark ones.

    python -m benchmarks.service.screenshot demo/digits --out docs/page

Starts the server at a free port of 127.0.0.1 and uses the page in Chromium as a visitor would. The images are those of
the seeds below, so the pictures change only with the page, the bundle and the system's fonts.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.service.process import PYTHON, running

SEED = 7
VIEWS = {"desk": ({"width": 1280, "height": 900}, "light"), "phone": ({"width": 390, "height": 860}, "dark")}


async def take(bundle: Path, chromium: str, out: Path) -> None:
    """Write `out`-desk.png and `out`-phone.png."""
    from playwright.async_api import async_playwright

    with tempfile.TemporaryDirectory() as folder:
        command = (*PYTHON, str(bundle), "--port", "0", "--threads", "1")
        async with running(command, Path(folder) / "log") as server, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, (viewport, scheme) in VIEWS.items():
                page = await browser.new_page(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
                await page.goto(server.url)
                await use(page)
                await page.screenshot(path=f"{out}-{name}.png")
                click.echo(f"{out}-{name}.png")
            await browser.close()


async def use(page: Any) -> None:
    """Generate digits, the last a 3, and look at how it became."""
    for digit, count in (("4", 6), ("3", 6)):
        for box in await page.get_by_role("checkbox").all():
            await box.set_checked(await box.get_attribute("value") == digit)
        await page.get_by_label("Seed").first.fill(str(SEED))
        await page.get_by_label("Images of each").fill(str(count))
        await page.get_by_role("button", name="Generate").click()
    await page.locator("[data-state=done].tile").nth(11).wait_for()
    await page.mouse.move(0, 0)


@click.command(epilog="Example: python -m benchmarks.service.screenshot demo/digits --out docs/page")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Beginning of the files' names.")
@click.option("--chromium", default="chromium", show_default=True, help="The browser's program.")
def main(bundle: Path, out: Path, chromium: str) -> None:
    """Take pictures of the page that himar-serve shows of BUNDLE, a bundle of digits."""
    program = shutil.which(chromium)
    if program is None:
        raise click.UsageError(f"there is no program {chromium!r}; apt-get install chromium, or give --chromium.")
    asyncio.run(take(bundle, program, out))


if __name__ == "__main__":
    main()
