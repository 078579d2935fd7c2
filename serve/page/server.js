// Requests to the server, and the notice while it cannot be reached.

import {byId} from "./dom.js";

const MOST_TRIES = 8;

/** An answer with an error: its message is meant for the reader. */
export class ServerError extends Error {}

const sleep = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));

function setTrouble(message) {
  const notice = byId("trouble");
  if (notice.textContent !== message) notice.textContent = message;
  notice.hidden = !message;
}

async function explain(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

/** Return the address of a path with a query. */
export const address = (path, query) => `${path}?${new URLSearchParams(query)}`;

/** Return the JSON at an address. */
export async function get(path, query = {}) {
  let response;
  try {
    response = await fetch(address(path, query));
  } catch {
    setTrouble("The server cannot be reached. The page continues when it is back.");
    throw new ServerError("the server cannot be reached");
  }
  if (response.status !== 503) setTrouble("");
  if (!response.ok) throw new ServerError(await explain(response));
  return response.json();
}

/** Send a form; repeat it while the server is busy or being restarted. */
export async function post(path, form) {
  for (let attempt = 1; ; attempt++) {
    let response = null, wait = Math.min(attempt, 5);
    try {
      response = await fetch(path, {method: "POST", body: form});
      setTrouble("");
    } catch {
      setTrouble("The server cannot be reached. The page continues when it is back.");
      if (attempt === 10 * MOST_TRIES) throw new ServerError("the server cannot be reached");
    }
    if (response?.ok) return response;
    if (response) {
      if (response.status !== 503 || attempt >= MOST_TRIES) throw new ServerError(await explain(response));
      wait = Number(response.headers.get("retry-after")) || wait;
    }
    await sleep(wait);
  }
}

/** Call `refresh` again and again; it returns the seconds until the next call. */
export async function poll(refresh) {
  for (;;) {
    let seconds = 3;
    try {
      seconds = await refresh();
    } catch (error) {
      if (!(error instanceof ServerError)) console.error(error);
    }
    await sleep(seconds);
    while (document.hidden) await new Promise(resolve => document.addEventListener("visibilitychange", resolve, {once: true}));
  }
}
