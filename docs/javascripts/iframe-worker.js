// Search runs in a Worker, which browsers refuse to start from a file: address. There, and only there, this stands in
// for it: the worker's script runs in a hidden frame with the same messages.
(() => {
  if (location.protocol !== "file:") return;
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      addEventListener("message", ({source, data}) => {
        if (source !== inside) return;
        const event = new MessageEvent("message", {data});
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      });
      // Defined from here, because `document.write` keeps the window: in a worker postMessage goes to its owner, and
      // importScripts runs scripts before it returns; a promise has to do.
      const page = inside.document;
      page.open();
      page.write(
        "<!doctype html><script>" +
          "postMessage = (data) => parent.postMessage(data, '*');" +
          "importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {" +
          "const script = document.createElement('script'); script.src = url; script.onload = done;" +
          "document.head.append(script); })), Promise.resolve());" +
          "<\/script>",
      );
      const script = page.createElement("script");
      this.ready = new Promise((done) => { script.onload = done; });
      script.src = url;
      page.head.append(script);
      page.close();
    }
    postMessage(data) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data}));
      });
    }
    terminate() {
      this.frame.remove();
    }
  }
  window.Worker = FrameWorker;
})();
