// What the page's other scripts share: the data, small things, the theme, and the drawing of what is near.
// Texts from data become text nodes, never HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const looks = new Map(Object.entries(data.looks));
document.documentElement.classList.add("scripted");

// Small things ----------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
// Tabulator takes titles for HTML.
const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const later = (wait, act) => {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
};
const show = (value) => (value == null ? "" : String(+value.toPrecision(4)));

// Light, dark, or as the system is ---------------------------------------------------------------------------------------

const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");
const memory = {
  // a browser may refuse to remember anything for a file
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
      /* then the page forgets */
    }
  },
};
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
}
setTheme(themes.includes(memory.get()) ? memory.get() : "system");
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  setTheme(next);
  memory.set(next);
});

// What is far below is made when it comes near; before printing, all of it.
const waiting = new Map();
const nearing = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && start(entry.target)), {
  rootMargin: "600px",
});
function whenNear(node, height, act) {
  node.style.minHeight = height; // without its height what follows would seem near too
  waiting.set(node, act);
  nearing.observe(node);
}
function start(node) {
  const act = waiting.get(node);
  waiting.delete(node);
  nearing.unobserve(node);
  if (act) act();
  node.style.minHeight = "";
}
