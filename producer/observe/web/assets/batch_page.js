export class BatchPage { constructor() { this.node = document.createElement("div"); } update() {} }
