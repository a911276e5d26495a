// What is kept in this browser. A browser may forbid it, or have no room: everything works without.

export function load(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function save(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // It is lost with the page.
  }
}

/** The name under which a program is kept: per challenge, or the playground, and language. */
export function programKey(place, language) {
  return `program/${place}/${language}`;
}
