// Questions to the server of this page. Every failure is an `ApiError` with one clear text.

export class ApiError extends Error {
  constructor(text, status = 0) {
    super(text);
    this.status = status;
  }
}

export function get(path) {
  return ask(path, {});
}

export function post(path, told, csrf) {
  const headers = { "content-type": "application/json", "x-rollstream-csrf": csrf };
  return ask(path, { method: "POST", headers, body: JSON.stringify(told) });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store" });
  } catch {
    throw new ApiError("The server of this page does not answer.");
  }
  const told = await response.json().catch(() => null);
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  if (!response.ok) throw new ApiError(told?.error ?? `The server answered ${response.status}.`, response.status);
  return told;
}
