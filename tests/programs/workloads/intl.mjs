// ICU: formatters made and thrown away in loops; 160 bytes is the size of some of its objects.
import { sha256 } from "./shared.mjs";

export default async function (say) {
  const words = ["zebra", "Äpfel", "apple", "ähnlich", "éclair", "Zürich", "ost", "Öl", "ñandú", "nandu"];
  for (const locale of ["en-US", "de-DE", "sv-SE", "ja-JP", "ar-EG"]) {
    let text = "";
    for (let i = 0; i < 12; i++) {
      const at = new Date(Date.UTC(2024, i % 12, 1 + i, i % 24, i % 60));
      const format = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long", timeZone: i % 2 ? "UTC" : "Asia/Tokyo" });
      text += format.format(at);
      text += new Intl.NumberFormat(locale, { style: "currency", currency: "EUR" }).format(1234567.891 * (i + 1));
      text += [...words].sort(new Intl.Collator(locale, { sensitivity: i % 2 ? "base" : "variant" }).compare).join();
      text += new Intl.PluralRules(locale).select(i);
      text += new Intl.RelativeTimeFormat(locale).format(-i, "day");
    }
    say(locale, text.length, sha256(text));
  }
  say(new Intl.DateTimeFormat("en-GB", { timeZone: "UTC" }).format(new Date(0)));
}
