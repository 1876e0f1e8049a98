// The readings as they come, and since when they do not.

const RETRY_MS = 2_000;
const SILENT_MS = 15_000; // a connection that says nothing for so long has broken without a word

// `seen` is what the page shows: the last reading, since when Redis is away, since when the server of this page is.
// `changed` is called after each change, `back` when the server answers again after a break.
export class Stream {
  constructor({ changed, back }) {
    Object.assign(this, { changed, back });
    this.seen = { fleet: null, down: null, lost: null };
    this.heard = this.openedAt = Date.now();
    this.source = null;
    setInterval(() => this.#mindSilence(), SILENT_MS / 5);
    document.addEventListener("visibilitychange", () => this.open());
  }

  // A hidden page has no connection: browsers allow few to one server.
  open() {
    this.source?.close();
    this.openedAt = Date.now();
    if (document.hidden) return;
    const source = new EventSource("/events");
    this.source = source;
    source.addEventListener("open", () => this.#answered());
    source.addEventListener("fleet", (event) => this.#note({ fleet: JSON.parse(event.data), down: null }));
    source.addEventListener("down", (event) => this.#note({ down: JSON.parse(event.data) }));
    source.addEventListener("error", () => {
      this.#isLost();
      if (source.readyState === EventSource.CLOSED) setTimeout(() => source === this.source && this.open(), RETRY_MS);
    });
  }

  #note(news) {
    this.#answered();
    Object.assign(this.seen, news);
    this.changed();
  }

  #answered() {
    this.heard = Date.now();
    if (this.seen.lost == null) return;
    this.seen.lost = null;
    this.back();
  }

  #isLost() {
    if (this.seen.lost != null) return;
    this.seen.lost = this.heard / 1000;
    this.changed();
  }

  // While Redis is away the server has nothing to say, so only the silence after a reading counts.
  #mindSilence() {
    const quiet = Date.now() - Math.max(this.heard, this.openedAt);
    if (document.hidden || this.seen.down || quiet < SILENT_MS) return;
    this.#isLost();
    this.open();
  }
}
