"""``make screenshots``: each page of the dashboard, light and dark, on a desktop and a phone, in docs/screenshots."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.believable import shop_day
from tests.browser.serving import FLAGS, chromium, serving

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
PAGES: Final = {
    "overview": "",
    "jobs": "/jobs?state=failed",
    "job": "/queues/default/jobs/weekly-report-2026-W47",
    "running": "/queues/default/jobs/campaign-31",
    "history": "/history",
    "recorded": f"/history/jobs/{quote('saq:job:production.default:weekly-report-2026-W43')}",
    "tasks": "/tasks",
    "task": "/tasks/send_receipt",
    "schedules": "/schedules",
    "queues": "/queues",
    "queue": "/queues/emails",
    "workers": "/workers",
}
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
SIZES: Final = {"desktop": (1280, 860), "phone": (390, 844)}


def main(*names: str) -> None:
    """Make them, or only those that are named."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving(shop_day()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        for scheme in SCHEMES:
            for size in SIZES:
                take(browser, f"{url}/saq", scheme, size, names)
        browser.close()


def take(browser: Browser, url: str, scheme: Literal["light", "dark"], size: str, names: tuple[str, ...]) -> None:
    width, height = SIZES[size]
    with browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, locale="en-GB", timezone_id="Europe/Berlin"
    ) as context:
        page, press = context.new_page(), context.new_page()
        for name, path in PAGES.items():
            if names and name not in names:
                continue
            answer = page.goto(url + path, wait_until="load")
            assert answer is not None
            assert answer.ok, f"{path} is answered with {answer.status}"
            page.wait_for_selector(".reading", state="detached")
            page.wait_for_function("document.fonts.status === 'loaded' && document.querySelector('time') !== undefined")
            whole = page.evaluate("document.documentElement.scrollHeight")
            shot = page.screenshot(
                full_page=True, clip={"x": 0, "y": 0, "width": width, "height": min(whole, 2 * height)}
            )
            (FOLDER / f"{name}-{size}-{scheme}.webp").write_bytes(pressed(press, shot))


def pressed(page: Page, png: bytes) -> bytes:
    """A picture as WebP, a tenth of its size, made by the browser."""
    data = page.evaluate(
        """async (png) => {
            const image = new Image()
            image.src = "data:image/png;base64," + png
            await image.decode()
            const canvas = new OffscreenCanvas(image.width, image.height)
            canvas.getContext("2d").drawImage(image, 0, 0)
            const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.82 })
            const bytes = new Uint8Array(await blob.arrayBuffer())
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
        }""",
        base64.b64encode(png).decode(),
    )
    return base64.b64decode(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
