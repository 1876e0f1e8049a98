// Asks for the data of one thing again and again while it changes, and keeps what it had when that fails.

import { get } from "./api.js";

const EVERY_MS = 2_000;

// `path()` is asked; `show(told)` gets the answer and says whether to go on asking; `fail(error)` gets an `ApiError`.
export class Refresh {
  constructor({ path, show, fail }) {
    Object.assign(this, { path, show, fail });
    this.goesOn = true;
    this.askedAt = -Infinity;
    this.asking = false;
  }

  // Called about twice a second while the page is seen.
  async tick() {
    if (!this.goesOn || this.asking || performance.now() - this.askedAt < EVERY_MS) return;
    this.asking = true;
    try {
      this.goesOn = this.show(await get(this.path()));
    } catch (error) {
      this.fail(error);
    } finally {
      this.asking = false;
      this.askedAt = performance.now();
    }
  }
}
