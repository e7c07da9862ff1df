// Renews the parts of the page that changed, and nothing else: what the reader selects, scrolls or reads stays.
"use strict";
const main = document.querySelector("main");
const renew = async () => {
  try {
    const answer = await fetch("/part", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(`<main>${await answer.text()}</main>`, "text/html").querySelector("main");
    const [now, next] = [[...main.children], [...fresh.children]];
    if (now.map((e) => e.id).join() === next.map((e) => e.id).join()) {
      now.forEach((e, i) => e.isEqualNode(next[i]) || e.replaceWith(next[i]));
    } else {
      main.replaceChildren(...next);
    }
    document.title = document.querySelector("h1").textContent;
  } catch (error) {
    document.title = "Not renewed: the monitoring page's server is gone";
  }
};
setInterval(renew, 1000 * Number(main.dataset.seconds));
