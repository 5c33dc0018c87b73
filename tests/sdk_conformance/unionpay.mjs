// UnionPay's signature rules with `sm-crypto` and Node's cryptography: `node unionpay.mjs COMMAND` with a JSON input on stdin
// and a JSON result on stdout. No registry has an SDK of UnionPay, so this is an independent implementation.
import { X509Certificate, createHash, createSign, createVerify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import smCrypto from 'sm-crypto';

const { sm2, sm3 } = smCrypto;
const sha256 = (text) => createHash('sha256').update(text).digest('hex');

const commands = {
  // Verifies the signature of each message: with the shared key (11, 12) or the certificate (01, 21).
  messages({ messages, ...keys }) {
    return messages.map((fields) => isSigned(fields, keys));
  },

  // A merchant uses the sandbox; the signature of each response is verified.
  async client({ url, folder, number, account }) {
    const server = { url, ca: readFileSync(join(folder, 'ca.pem')) };
    const keys = { secureKey: account.secureKey, certificate: account.unionpayCertificate };
    const ask = async (path, fields, key = account) => {
      const answer = await post(server, `/gateway/api/${path}.do`, signed(fields, key));
      return { ...answer, isSigned: answer.signature !== undefined && isSigned(answer, keys) };
    };
    const whose = { version: '5.1.0', encoding: 'UTF-8', accessType: '0', merId: account.merId };
    const order = { orderId: number, txnTime: account.now };
    const made = {
      ...whose, ...order, txnType: '01', txnSubType: '01', bizType: '000201', channelType: '08', txnAmt: '888',
      currencyCode: '156', backUrl: 'https://shop.example.com/notify', riskRateInfo: '{commodityName=茶 & 1}',
    };
    const asked = { ...whose, ...order, txnType: '00', txnSubType: '00', bizType: '000201' };
    return {
      created: await ask('appTransReq', made),
      again: await ask('appTransReq', { ...made, txnAmt: '889' }),
      asked: await ask('queryTrans', asked),
      unknown: await ask('queryTrans', { ...asked, orderId: 'nobody00001' }),
      forged: await ask('queryTrans', asked, { ...account, ...account.other }),
    };
  },

  // A payment's notification as UnionPay sends it.
  notification({ fields, ...keys }) {
    return new URLSearchParams(signed(fields, keys)).toString();
  },
};

function textOf(fields) {
  const names = Object.keys(fields).filter((name) => name !== 'signature' && fields[name].trim() !== '');
  // Names are ASCII, so the order of UTF-16 units equals the byte order.
  return names.sort().map((name) => `${name}=${fields[name]}`).join('&');
}

function signed(fields, { signMethod, secureKey, privateKey, certId, shown }) {
  const more = { signMethod, ...(certId && { certId }), ...(shown && { signPubKeyCert: shown }) };
  const all = { ...fields, ...more };
  const userId = certId ?? (shown && numberOf(shown));
  return { ...all, signature: signature(textOf(all), signMethod, { secureKey, privateKey, userId }) };
}

function signature(text, signMethod, { secureKey, privateKey, userId }) {
  if (signMethod === '11') return sha256(`${text}&${sha256(secureKey)}`);
  if (signMethod === '12') return sm3(`${text}&${sm3(secureKey)}`);
  if (signMethod === '21') {
    return Buffer.from(sm2.doSignature(sm3(text), numberIn(privateKey), { hash: true, userId }), 'hex').toString('base64');
  }
  return createSign('sha256').update(sha256(text)).sign(privateKey, 'base64');
}

function isSigned(fields, { secureKey, certificate }) {
  const text = textOf(fields);
  const { signMethod } = fields;
  if (signMethod === '11' || signMethod === '12') {
    return secureKey !== undefined && signature(text, signMethod, { secureKey }) === fields.signature;
  }
  const key = new X509Certificate(certificate).publicKey;
  if (signMethod === '01') return createVerify('sha256').update(sha256(text)).verify(key, fields.signature, 'base64');
  const point = key.export({ format: 'der', type: 'spki' }).subarray(-65).toString('hex');
  const userId = numberOf(certificate);
  const raw = Buffer.from(fields.signature, 'base64').toString('hex');
  return sm2.doVerifySignature(sm3(text), raw, point, { hash: true, userId });
}

// Returns the private number of an SM2 key in hexadecimal, because Node cannot read such keys. Version 1 and 32 bytes (RFC 5915).
function numberIn(privateKey) {
  const der = Buffer.from(privateKey.replace(/-----[^-]+-----/g, ''), 'base64');
  const start = der.indexOf(Buffer.from([2, 1, 1, 4, 32])) + 5;
  return der.subarray(start, start + 32).toString('hex');
}

// Returns a certificate's serial number in decimal.
function numberOf(certificate) {
  return BigInt(`0x${new X509Certificate(certificate).serialNumber}`).toString();
}

function post({ url, ca }, path, fields) {
  const body = new URLSearchParams(fields).toString();
  const headers = { 'content-type': 'application/x-www-form-urlencoded;charset=UTF-8' };
  return new Promise((resolve, reject) => {
    const asked = request(url + path, { method: 'POST', headers, agent: new Agent({ ca }) }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => resolve(fieldsOf(Buffer.concat(parts).toString())));
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

// Values are not escaped; those in brackets may contain `&`.
function fieldsOf(answer) {
  const pairs = answer.match(/[^&={]+=(?:\{[^}]*\}|\[[^\]]*\]|[^&{[])*/g) ?? [];
  return Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
}

const question = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await commands[process.argv[2]](question)));
