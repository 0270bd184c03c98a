// Shared by the page's scripts: the data, helpers, the theme, and drawing on demand.
// Texts from data become text nodes, never HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const styles = new Map(Object.entries(data.styles));
document.documentElement.classList.add("scripted");

// Helpers --------------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
// Tabulator reads titles as HTML.
const escapeHtml = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
const debounce = (wait, act) => {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
};
const formatNumber = (value) => (value == null ? "" : String(+value.toPrecision(4)));

// Light, dark, or the system's theme -------------------------------------------------------------------------------------

const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");
const storage = {
  // a browser may refuse to store anything for a file
  get() {
    try {
      return localStorage.getItem("gpt3mix-theme");
    } catch {
      return null;
    }
  },
  set(value) {
    try {
      localStorage.setItem("gpt3mix-theme", value);
    } catch {
      /* the choice is not remembered */
    }
  },
};
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
}
setTheme(themes.includes(storage.get()) ? storage.get() : "system");
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  setTheme(next);
  storage.set(next);
});

// Tables and plots are drawn when they come near the screen; plots, at the latest before printing.
const waiting = new Map();
const observer = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && start(entry.target)), {
  rootMargin: "600px",
});
function whenNear(node, height, act) {
  node.style.minHeight = height; // without a height, everything below would be near the screen too
  waiting.set(node, act);
  observer.observe(node);
}
function start(node) {
  const act = waiting.get(node);
  waiting.delete(node);
  observer.unobserve(node);
  if (act) act();
  node.style.minHeight = "";
}
