// The page of an import under way asks for the next rows by itself; its button does the same.
const form = document.querySelector("form[data-continue]");
if (form) {
  setTimeout(() => form.requestSubmit(), Number(form.dataset.continue));
}
