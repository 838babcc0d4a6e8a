"use strict"
// Keeps the page up to date while somebody looks at it. Without this file everything works, only not live.
const seconds = 3

async function refresh() {
  const shown = document.querySelector("main[data-live]")
  if (!shown || document.hidden || shown.contains(document.activeElement) || !getSelection().isCollapsed) return
  const response = await fetch(location.href, { headers: { accept: "text/html" } })
  // The server escaped it, and a document that is parsed like this runs no scripts.
  const page = new DOMParser().parseFromString(await response.text(), "text/html")
  const fresh = page.querySelector("main")
  if (fresh && fresh.innerHTML !== shown.innerHTML) shown.replaceWith(fresh)
}

setInterval(() => refresh().catch(() => {}), seconds * 1000)
