export class LetterPage { constructor() { this.node = document.createElement("div"); } update() {} }
