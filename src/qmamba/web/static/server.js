// Requests to the server and the events that it sends.

const token = document.querySelector("meta[name=token]").content;

export async function get(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

export async function send(method, address, values = null) {
  const answer = await fetch(address, {
    method,
    headers: { "X-QMamba-Token": token },
    body: values === null ? null : JSON.stringify(values),
  });
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.status === 204 ? null : answer.json();
}

// Sends one file; an AbortSignal stops it.
export async function upload(file, signal) {
  const answer = await fetch("api/images", {
    method: "POST",
    headers: { "X-QMamba-Token": token, "X-Name": encodeURIComponent(file.name) },
    body: file,
    signal,
  });
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

// Calls event with what the server tells, and state with whether it can be reached.
export function listen(event, state) {
  const source = new EventSource("api/events");
  source.addEventListener("open", () => state(true));
  source.addEventListener("error", () => {
    state(false);
    // A browser gives up where the server answers with an error; the next one may let it in.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(event, state), 2000);
  });
  source.addEventListener("message", (message) => event(JSON.parse(message.data)));
}

async function reason(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the server answered ${answer.status}`;
  }
}
