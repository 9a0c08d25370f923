// Makes an element; text becomes a text node, never markup.
function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  for (const child of children.flat()) if (child != null && child !== false) node.append(child);
  return node;
}

// Light, dark, or as the system is: a button with the id "theme".
(function () {
  const names = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  const button = document.getElementById("theme");
  let theme = "auto";
  const remembered = (value) => {
    // A page opened from a file may have no storage.
    try { return value ? localStorage.setItem("paraffin-theme", value) : localStorage.getItem("paraffin-theme"); } catch { return null; }
  };
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = names[theme];
  };
  const stored = remembered();
  if (stored in names) theme = stored;
  button.addEventListener("click", () => {
    theme = { auto: "light", light: "dark", dark: "auto" }[theme];
    remembered(theme);
    show();
  });
  show();
})();
