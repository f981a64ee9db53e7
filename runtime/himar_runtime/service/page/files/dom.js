// Builds elements. Texts are set as texts, so nothing that a server or a user wrote is ever read as markup.

export const byId = (id) => document.getElementById(id);

// element("button", { type: "button", class: "tile", "aria-label": "Cancel", onclick: f }, children…): null and false
// leave an attribute or a child out.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== false));
  return made;
}

// Says something to who cannot see the page.
export function announce(sentence) {
  byId("announcer").textContent = sentence;
}
