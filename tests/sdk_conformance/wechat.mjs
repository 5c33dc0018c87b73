// WeChat Pay through `wechatpay-axios-plugin`: `node wechat.mjs COMMAND`, with a JSON input on stdin and a JSON result on stdout.
import { readFileSync } from 'node:fs';
import { Agent } from 'node:https';
import { join } from 'node:path';
import { Aes, Formatter, Hash, Rsa, Transformer, Wechatpay } from 'wechatpay-axios-plugin';

const commands = {
  // Verifies the merchant's signature of each gateway request; `requests` are those of the golden files.
  requests({ certificate, requests }) {
    return requests.map(({ method, uri, headers, body }) => {
      const part = (name) => new RegExp(`[ ,]${name}="([^"]*)"`).exec(headers.authorization)[1];
      const text = Formatter.request(method, uri, part('timestamp'), part('nonce_str'), body || undefined);
      return Rsa.verify(text, part('signature'), certificate);
    });
  },

  // A merchant uses the sandbox; the SDK rejects a response with a wrong signature.
  async client({ url, folder, account, number }) {
    const file = (name) => readFileSync(join(folder, name));
    const { mchid, appid, serial, public_key_id: keyId } = account;
    const wechat = new Wechatpay({
      mchid,
      serial,
      privateKey: file('apiclient_key.pem'),
      certs: { [keyId]: file('pub_key.pem') },
      baseURL: url,
      headers: { 'Wechatpay-Serial': keyId },
      httpsAgent: new Agent({ ca: file('ca.pem'), cert: file('apiclient_cert.pem'), key: file('apiclient_key.pem') }),
    });
    const transactions = wechat.v3.pay.transactions;
    const seen = {};
    const created = await transactions.native.post({
      mchid, appid, description: '茶', out_trade_no: number, notify_url: 'https://shop.example.com/notify',
      amount: { total: 888, currency: 'CNY' },
    });
    seen.code_url = created.data.code_url;
    const order = transactions.outTradeNo.$number$;
    seen.state = (await order.get({ params: { mchid }, number })).data.trade_state;
    seen.closed = (await order.close.post({ mchid }, { number })).status;
    seen.afterwards = (await order.get({ params: { mchid }, number })).data.trade_state;
    seen.forged = await forged(url, file, account);
    return seen;
  },

  // Verifies the signature of each APIv2 message and of each parameter set for a payer's device.
  v2({ key, messages, parameters }) {
    const isGood = (fields, sign, type) => Hash.sign(type, fields, key) === sign;
    const message = (xml) => {
      const { sign, ...fields } = Transformer.toObject(xml);
      return isGood(fields, sign, 'HMAC-SHA256');
    };
    const device = ({ sign, paySign, ...fields }) => isGood(fields, sign ?? paySign, 'HMAC-SHA256');
    return [...messages.map(message), ...parameters.map(device)];
  },

  // A notification as WeChat Pay sends it.
  notification({ platformKey, keyId, apiV3, resource, type }) {
    const aad = type.startsWith('REFUND') ? 'refund' : 'transaction';
    const nonce = Formatter.nonce(12);
    const body = JSON.stringify({
      id: `EV-${Formatter.nonce()}`, create_time: new Date().toISOString(), event_type: type, summary: '支付成功',
      resource_type: 'encrypt-resource',
      resource: {
        algorithm: 'AEAD_AES_256_GCM', nonce, associated_data: aad, original_type: aad,
        ciphertext: Aes.AesGcm.encrypt(JSON.stringify(resource), apiV3, nonce, aad),
      },
    });
    const [timestamp, random] = [Formatter.timestamp(), Formatter.nonce()];
    return {
      body,
      headers: {
        'content-type': 'application/json',
        'wechatpay-timestamp': String(timestamp),
        'wechatpay-nonce': random,
        'wechatpay-serial': keyId,
        'wechatpay-signature-type': 'WECHATPAY2-SHA256-RSA2048',
        'wechatpay-signature': Rsa.sign(Formatter.response(timestamp, random, body), platformKey),
      },
    };
  },
};

// The same client with another merchant's key.
async function forged(url, file, { mchid, serial, public_key_id: keyId }) {
  const wechat = new Wechatpay({
    mchid,
    serial,
    privateKey: file('server_key.pem'),
    certs: { [keyId]: file('pub_key.pem') },
    baseURL: url,
    httpsAgent: new Agent({ ca: file('ca.pem'), cert: file('apiclient_cert.pem'), key: file('apiclient_key.pem') }),
  });
  try {
    return (await wechat.v3.certificates.get()).status;
  } catch (error) {
    return error.response?.status ?? error.message;
  }
}

const question = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await commands[process.argv[2]](question)));
