// What a page looks like to people who see badly, or not at all. Each function is evaluated in the page.
({
  // Texts whose contrast with what is behind them is below 4.5, or 3 for large ones.
  faint() {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, bottom) => [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
    const luminance = (colour) => {
      const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      const layers = [];
      for (let each = element; each; each = each.parentElement) layers.push(rgba(getComputedStyle(each).backgroundColor));
      return layers.reverse().reduce((below, layer) => over(layer, below), rgba(getComputedStyle(document.body).backgroundColor));
    };
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || !element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
      if (element.closest(".hidden-words, noscript, option")) continue;
      count += 1;
      const style = getComputedStyle(element);
      const size = Number.parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const back = behind(element);
      const front = rgba(style.color);
      for (let each = element; each; each = each.parentElement) front[3] *= Number(getComputedStyle(each).opacity);
      const [a, b] = [luminance(over(front, back)), luminance(back)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < (isLarge ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${texts.currentNode.data.trim().slice(0, 40)} (${element.className || element.tagName})`);
    }
    return { found, count };
  },

  // What can be used and has no name, and ids that come twice.
  nameless() {
    const named = (element) =>
      element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim() || element.textContent.trim() || element.title ||
      (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent).join("").trim();
    const usable = document.querySelectorAll("a[href], button, input, select, textarea, [tabindex='0'], [role=tab], [contenteditable=true], dialog, nav, table");
    const found = [...usable].filter((element) => element.checkVisibility() && !named(element)).map((element) => element.outerHTML.slice(0, 120));
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    const twice = ids.filter((id, index) => ids.indexOf(id) !== index);
    const broken = [...document.querySelectorAll("[aria-controls], [aria-describedby], [aria-labelledby], label[for]")].flatMap((element) =>
      ["aria-controls", "aria-describedby", "aria-labelledby", "for"].flatMap((name) => (element.getAttribute(name) ?? "").split(" ").filter((id) => id && !document.getElementById(id))));
    return { found, twice, broken, headings: document.querySelectorAll("h1").length, count: usable.length };
  },

  // Elements that reach beyond the right edge of the window.
  wide() {
    const width = document.documentElement.clientWidth;
    const isScrolled = (element) => element.closest("nav, pre, .cm-scroller, .notices");
    const found = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() && !isScrolled(element) && !element.closest(".hidden-words, .skip") && element.getBoundingClientRect().right > width + 0.5);
    return { found: found.map((element) => element.outerHTML.slice(0, 100)), scrolls: document.documentElement.scrollWidth > width };
  },

  // Whether what has the focus shows it: by an outline of its own, or by the frame around it.
  showsFocus() {
    const rings = [];
    for (let each = document.activeElement; each && rings.length < 6; each = each.parentElement) {
      const style = getComputedStyle(each);
      rings.push((style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 2 && each === document.activeElement) || (style.boxShadow !== "none" && each.matches(":focus-within")));
    }
    return rings.some(Boolean);
  },
});
