"use strict";
const live = document.getElementById("live");
const lost = document.getElementById("lost");
const events = new EventSource(live.dataset.source);
events.onmessage = (message) => {
  live.innerHTML = message.data;
  lost.hidden = true;
  const status = live.querySelector("[data-status]").dataset.status;
  for (const button of document.querySelectorAll("[data-when]")) button.hidden = button.dataset.when !== status;
  document.title = document.title.replace(/: .*/, ": " + status);
};
events.onopen = () => { lost.hidden = true; };
events.onerror = () => { lost.hidden = false; };
