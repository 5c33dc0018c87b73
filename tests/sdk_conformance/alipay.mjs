// Alipay's own `alipay-sdk`: `node alipay.mjs COMMAND` with a JSON input on stdin and a JSON result on stdout.
import { readFileSync } from 'node:fs';
import { AlipaySdk } from 'alipay-sdk';

const commands = {
  // Verifies the signature of each form; `signed` are objects of fields. The SDK verifies only what Alipay signs, so the
  // key is passed as Alipay's.
  forms({ publicKey, privateKey, signed }) {
    const alipay = sdk(publicKey, privateKey);
    return signed.map((fields) => alipay.checkNotifySignV2(fields));
  },

  // Verifies Alipay's signature over the `…_response` member of each response.
  answers({ publicKey, privateKey, answers }) {
    const alipay = sdk(publicKey, privateKey);
    return answers.map((body) => {
      const key = Object.keys(JSON.parse(body)).find((name) => name.endsWith('_response'));
      try {
        alipay.checkResponseSign(body, key, JSON.parse(body).sign, 'judge');
        return true;
      } catch {
        return false;
      }
    });
  },

  // A merchant uses the sandbox before the payment: a new order, and a client with an unknown key. The SDK verifies the
  // signature of each response itself.
  async client({ url, number, account }) {
    const alipay = merchant(url, account);
    const content = { out_trade_no: number, total_amount: '8.88', subject: '茶 {"a}' };
    const created = await alipay.exec('alipay.trade.precreate', { bizContent: content }, checked);
    const link = alipay.pageExec('alipay.trade.page.pay', {
      method: 'GET',
      bizContent: { ...content, out_trade_no: `${number}_page`, product_code: 'FAST_INSTANT_TRADE_PAY' },
    });
    const text = alipay.sdkExec('alipay.trade.app.pay', {
      bizContent: { ...content, out_trade_no: `${number}_app`, product_code: 'QUICK_MSECURITY_PAY' },
    });
    const unknown = await alipay.exec('alipay.trade.query', { bizContent: { out_trade_no: 'nobody' } }, checked);
    const otherMerchant = merchant(url, { ...account, privateKey: account.otherKey });
    // A request that fails authentication gets an unsigned response.
    const forged = await otherMerchant.exec('alipay.trade.precreate', { bizContent: content });
    return { created, link, text, unknown, forged };
  },

  // The same in the v3 protocol, from an order to its refund; `pay` is the sandbox URL that marks the order as paid.
  async v3({ url, number, account, pay }) {
    const alipay = merchant(url, account);
    const post = (client, path, body) =>
      client.curl('POST', `/v3/alipay/trade/${path}`, { body }).then(
        (answer) => ({ status: answer.responseHttpStatus, ...answer.data }),
        (error) => ({ status: error.responseHttpStatus, code: error.code, message: error.message }),
      );
    const named = { out_trade_no: number };
    const created = await post(alipay, 'precreate', { ...named, total_amount: '8.88', subject: '茶 {"a}' });
    const unknown = await post(alipay, 'query', { out_trade_no: 'nobody' });
    const forged = await post(merchant(url, { ...account, privateKey: account.otherKey }), 'query', named);
    await fetch(pay, { method: 'POST', body: '{"notify": false}' });
    const asked = await post(alipay, 'query', named);
    const refunded = await post(alipay, 'refund', { ...named, refund_amount: '3.00', out_request_no: `${number}_r` });
    const refund = await post(alipay, 'fastpay/refund/query', { ...named, out_request_no: `${number}_r` });
    return { created, unknown, forged, asked, refunded, refund };
  },

  // After the payment: query, partial refund, refund query.
  async paid({ url, number, account }) {
    const alipay = merchant(url, account);
    const ask = (method, content) => alipay.exec(method, { bizContent: { out_trade_no: number, ...content } }, checked);
    const asked = await ask('alipay.trade.query', {});
    const refunded = await ask('alipay.trade.refund', { refund_amount: '3.00', out_request_no: `${number}_r` });
    const refund = await ask('alipay.trade.fastpay.refund.query', { out_request_no: `${number}_r` });
    return { asked, refunded, refund };
  },
};

const checked = { validateSign: true };

function sdk(publicKey, privateKey) {
  return new AlipaySdk({ appId: '2021000000000001', privateKey, alipayPublicKey: publicKey, keyType: 'PKCS8' });
}

function merchant(gateway, { appId, privateKey, publicKey, certificates }) {
  const keys = certificates
    ? {
        appCertContent: certificates.application,
        alipayPublicCertContent: certificates.alipay,
        alipayRootCertContent: certificates.root,
      }
    : { alipayPublicKey: publicKey };
  // The SDK writes local time; the test sets China's time zone.
  const endpoint = new URL(gateway).origin;
  return new AlipaySdk({ appId, privateKey, keyType: 'PKCS8', gateway, endpoint, ...keys });
}

const question = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await commands[process.argv[2]](question)));
