"use strict"
// Keeps a page up to date while somebody looks at it, and says moments in the viewer's own words and zone.
// Without this file everything works, only not live.

const every = Number(document.body.dataset.every || 0) * 1000
const control = document.getElementById("live")
let stopped = sessionStorage.getItem("live") === "off"
let away = false
let timer = 0

// ---------------------------------------------------------------------------------------------------- moments

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "always", style: "narrow" })
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" })
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" })
const precise = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" })
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" })
const units = [["day", 172800, 86400], ["hour", 3600, 3600], ["minute", 60, 60], ["second", 1, 1]]

function sayMoments(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime)
    if (Number.isNaN(moment.getTime())) continue
    element.title = exact.format(moment)
    if (element.classList.contains("clock")) {
      const format = element.classList.contains("full") ? full : element.closest(".log") ? precise : clock
      element.textContent = format.format(moment)
      continue
    }
    const seconds = (moment - Date.now()) / 1000
    const [unit, , size] = units.find(([, from]) => Math.abs(seconds) >= from) || ["second", 0, 1]
    element.textContent = Math.abs(seconds) < 1 ? "now" : relative.format(Math.round(seconds / size), unit)
  }
}

// ---------------------------------------------------------------------------------------------------- following

// What a person has touched stays as it is: open details, ticks, what is typed, what is selected or focused.
function keeps(element) {
  return element.hasAttribute("data-keep") || (element.matches("table.jobs") && element.querySelector("input:checked"))
}

function follow(shown, fresh) {
  if (keeps(shown)) return
  for (const { name, value } of [...fresh.attributes]) {
    if (name === "open" || name === "checked" || (name === "title" && shown.matches("time"))) continue
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value)
  }
  for (const { name } of [...shown.attributes]) {
    if (!fresh.hasAttribute(name) && !["open", "title", "hidden", "checked"].includes(name)) shown.removeAttribute(name)
  }
  if (shown.matches("input, select, textarea, time")) return
  const byId = new Map([...shown.children].filter((child) => child.id).map((child) => [child.id, child]))
  let at = shown.firstChild
  for (const node of [...fresh.childNodes]) {
    const known = node.id && byId.get(node.id)
    if (known) {
      if (known === at) at = at.nextSibling
      else shown.insertBefore(known, at)
      follow(known, node)
    } else if (at && !(at.id && byId.has(at.id)) && !node.id && at.nodeType === node.nodeType && at.nodeName === node.nodeName) {
      if (node.nodeType === Node.ELEMENT_NODE) {
        if (node.matches("time") && at.dateTime !== node.dateTime) at.dateTime = node.dateTime
        follow(at, node)
      } else if (at.nodeValue !== node.nodeValue) at.nodeValue = node.nodeValue
      at = at.nextSibling
    } else shown.insertBefore(document.importNode(node, true), at)
  }
  while (at) {
    const next = at.nextSibling
    at.remove()
    at = next
  }
}

function isBusy() {
  const selection = getSelection()
  return !selection.isCollapsed && document.getElementById("main").contains(selection.anchorNode)
}

async function refresh() {
  if (isBusy()) return
  const response = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" })
  const text = await response.text()
  if (response.status >= 500) throw new Error(response.statusText)
  // The server escaped it, and a document that is parsed like this runs no scripts.
  const page = new DOMParser().parseFromString(text, "text/html")
  const fresh = page.getElementById("main")
  const shown = document.getElementById("main")
  if (!fresh || isBusy()) return
  sayMoments(fresh)
  follow(shown, fresh)
  sayChosen()
  if (page.title) document.title = page.title
}

function say() {
  if (!control) return
  control.hidden = !every
  control.setAttribute("aria-pressed", String(!stopped))
  control.classList.toggle("away", away && !stopped)
  control.querySelector(".live-label").textContent = stopped ? "Stopped" : away ? "No answer" : "Live"
  control.title = stopped ? "Follow what happens" : "Stop following"
}

function plan() {
  clearTimeout(timer)
  if (every && !stopped && !document.hidden) timer = setTimeout(turn, away ? Math.max(every, 5000) : every)
}

async function turn() {
  try {
    await refresh()
    away = false
  } catch {
    away = true
  }
  say()
  plan()
}

control?.addEventListener("click", () => {
  stopped = !stopped
  sessionStorage.setItem("live", stopped ? "off" : "on")
  say()
  if (stopped) clearTimeout(timer)
  else turn()
})
// Nobody looks at a hidden tab; who comes back sees what is true now.
document.addEventListener("visibilitychange", () => (document.hidden || stopped || !every ? clearTimeout(timer) : turn()))

// ---------------------------------------------------------------------------------------------------- lists and forms

const boxes = () => [...document.querySelectorAll("table.jobs input[name=job]")]

// The rows may have come after the page: nothing is bound to them, and this is said again for each look.
function sayChosen() {
  const label = document.getElementById("chosen")
  const all = document.getElementById("all-rows")
  if (!label || !all) return
  const ticked = boxes().filter((box) => box.checked).length
  label.textContent = ticked ? `Selected (${ticked}):` : "Selected:"
  all.closest("label").hidden = false
  all.checked = ticked > 0 && ticked === boxes().length
  all.indeterminate = ticked > 0 && !all.checked
}

document.addEventListener("change", ({ target }) => {
  if (target.id === "all-rows") for (const box of boxes()) box.checked = target.checked
  if (target.closest("#bulk")) sayChosen()
})
sayChosen()
// What narrows a list takes a phone's whole screen: there it opens for who wants it, or uses it.
const narrow = matchMedia("(max-width: 48rem)")
const more = document.getElementById("more")
const fold = () => more && (more.open = !narrow.matches || "used" in more.dataset)
narrow.addEventListener("change", fold)
fold()
for (const form of document.querySelectorAll("form[data-auto]")) {
  form.addEventListener("change", (event) => event.target.matches("select") && form.requestSubmit())
}
document.querySelector("form[data-continue]")?.requestSubmit()
// A message is said once: not again after a reload, and not to whom the address is sent.
if (new URLSearchParams(location.search).has("done")) {
  const address = new URL(location.href)
  address.searchParams.delete("done")
  history.replaceState(null, "", address)
}

sayMoments(document)
setInterval(() => document.hidden || sayMoments(document), 15000)
say()
plan()
