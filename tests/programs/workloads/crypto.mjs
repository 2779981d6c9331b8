// Hashes, MACs, key derivation, ciphers and signatures, all with fixed keys.
import crypto from "node:crypto";
import { bytes, cert, key, sha256 } from "./shared.mjs";

export default async function (say) {
  const data = bytes(50_000, 2);
  for (const name of ["md5", "sha1", "sha256", "sha384", "sha512"]) {
    say(name, crypto.createHash(name).update(data).digest("hex").slice(0, 32));
    say("hmac", name, crypto.createHmac(name, "key").update(data).digest("hex").slice(0, 32));
  }
  for (let i = 0; i < 60; i++) crypto.createHash("sha256").update(bytes(160, i)).digest();
  say("pbkdf2", crypto.pbkdf2Sync("word", "salt", 1000, 40, "sha512").toString("hex"));
  const later = await new Promise((resolve, reject) => crypto.pbkdf2("word", "salt", 500, 32, "sha256", (e, k) => (e ? reject(e) : resolve(k))));
  say("pbkdf2 in a thread", later.toString("hex"));
  say("scrypt", crypto.scryptSync("word", "salt", 32, { N: 1024 }).toString("hex"));
  const secret = bytes(32, 9);
  for (const name of ["aes-256-cbc", "aes-256-ctr", "aes-256-gcm"]) {
    const iv = bytes(name.endsWith("gcm") ? 12 : 16, 4);
    const to = crypto.createCipheriv(name, secret, iv);
    const coded = Buffer.concat([to.update(data), to.final()]);
    const from = crypto.createDecipheriv(name, secret, iv);
    if (name.endsWith("gcm")) from.setAuthTag(to.getAuthTag());
    const back = Buffer.concat([from.update(coded), from.final()]);
    say(name, sha256(coded), back.equals(data));
  }
  // An Ed25519 key from a fixed seed (RFC 8410): its signatures have no random part.
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), bytes(32, 6)]);
  const signer = crypto.createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const signature = crypto.sign(null, data, signer);
  say("ed25519", signature.toString("hex").slice(0, 32), crypto.verify(null, data, crypto.createPublicKey(signer), signature));
  const ecdsa = crypto.sign("sha256", data, key());
  say("ecdsa", crypto.verify("sha256", data, cert(), ecdsa), crypto.verify("sha256", data.subarray(1), cert(), ecdsa));
}
