/* How a page follows what happens: one stream while somebody looks at it.

   A browser gives a site six connections in all (HTTP/1.1), and a stream keeps one: without this the seventh tab would load for ever,
   and so would every other page. So a tab that nobody sees has no stream. When it is seen again the stream begins with how everything
   stands. A page whose stream is gone says so: what it shows may be old by then. */
(function () {
  "use strict";
  var PATIENCE = 5000; // milliseconds; a console that starts again is no news

  /* For htmx's extension, which takes it for an EventSource. */
  htmx.createEventSource = function (url) {
    var heard = [], source = null, late = 0;
    var self = { readyState: EventSource.CONNECTING, onopen: null, onerror: null };

    function open() {
      source = new EventSource(url);
      heard.forEach(function (one) { source.addEventListener(one[0], one[1]); });
      source.onopen = function (event) {
        self.readyState = EventSource.OPEN;
        say(false);
        if (self.onopen) { self.onopen(event); }
      };
      source.onerror = function (event) {
        self.readyState = source.readyState;
        if (!late) { late = window.setTimeout(say, PATIENCE, true); }
        if (self.readyState === EventSource.CLOSED) { end(); }
        if (self.onerror) { self.onerror(event); }
      };
    }

    function say(isLost) {
      window.clearTimeout(late);
      late = 0;
      document.querySelectorAll("[data-lost]").forEach(function (place) {
        if (place.hidden === isLost) {
          place.hidden = !isLost;
          /* Anew, or it would not be read out. */
          place.querySelector("span").textContent = isLost ? place.getAttribute("data-lost") : "";
        }
      });
    }

    function look() {
      var isSeen = document.visibilityState !== "hidden";
      if (isSeen && !source) {
        open();
      } else if (!isSeen && source) {
        source.close();
        source = null;
        window.clearTimeout(late);
        late = 0;
        self.readyState = EventSource.CONNECTING;
      }
    }

    function end() {
      document.removeEventListener("visibilitychange", look);
      if (source) { source.close(); }
      self.readyState = EventSource.CLOSED;
    }

    self.addEventListener = function (name, act) {
      heard.push([name, act]);
      if (source) { source.addEventListener(name, act); }
    };
    self.removeEventListener = function (name, act) {
      heard = heard.filter(function (one) { return one[0] !== name || one[1] !== act; });
      if (source) { source.removeEventListener(name, act); }
    };
    self.close = function () {
      window.clearTimeout(late);
      end();
    };
    document.addEventListener("visibilitychange", look);
    look();
    return self;
  };
})();
