// Proposes the browser's own time zone, where the server could only guess.

const zone = document.getElementById("field-zone");
if (zone?.value === "UTC") zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
