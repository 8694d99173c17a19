// Voting with the keyboard or one thumb.
(() => {
  "use strict";

  // A button that was clicked keeps the focus, and with it the arrow keys: both belong to the next vote.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#votes button, #blind_button");
    if (button && event.detail > 0) button.blur();
  });
})();
