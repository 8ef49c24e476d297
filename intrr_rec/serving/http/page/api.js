// What the page asks the server. The token, where one is needed, stays in this tab.

const KEY = "intrr-token";

export class Denied extends Error {}

export const useToken = (token) => sessionStorage.setItem(KEY, token);

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new Denied(body.error);
  if (answer.status === 429) throw new Error("The server is busy; try again in a moment.");
  if (!answer.ok) throw new Error(body.error ?? `The server answered ${answer.status}.`);
  return body;
}

export const search = (query, signal) => ask(`/items?limit=8&query=${encodeURIComponent(query)}`, { signal });

export const item = (id, signal) => ask(`/items/${encodeURIComponent(id)}`, { signal });

export const recommend = (request, signal) =>
  ask("/recommend", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });

export const bundle = (signal) => ask("/bundle", { signal });
